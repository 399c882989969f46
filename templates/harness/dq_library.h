/* The library under test, under names that do not depend on its prefix.
 *
 * The build defines DQ_LIBRARY_HEADER and the DQ_... names below from the prefix, and the sizes the
 * samples have, so that a stale library is refused by the compiler.
 */
#ifndef DQ_HARNESS_LIBRARY_H
#define DQ_HARNESS_LIBRARY_H

#include DQ_LIBRARY_HEADER

/* The table of layers must not be empty even if the network is. */
#define DQ_LAYER_SLOTS (DQ_LAYER_COUNT + 1)

typedef char dq_input_size_is_that_of_the_samples[(DQ_INPUT_SIZE) == (DQ_SAMPLE_BYTES) ? 1 : -1];
typedef char dq_output_size_is_the_expected_one[(DQ_OUTPUT_SIZE) == (DQ_RESULT_BYTES) ? 1 : -1];

#endif
