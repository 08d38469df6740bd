"""What the project is made of, and whether that may be so: locks, licences, known vulnerabilities, a bill of materials.

`make check` runs `python -m supply_chain`, `make sbom` writes the bill.
"""
