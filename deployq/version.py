"""The version, from the installed package's metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("deployq")
except PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "0+unknown"
