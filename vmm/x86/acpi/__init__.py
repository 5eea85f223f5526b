"""ACPI: the tables that tell a kernel of its machine, and the registers behind them."""
