"""What all tests of devices share."""

from tests.unhurried import unhurried as unhurried
