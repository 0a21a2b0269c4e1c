"""Theorem 3.2 and Figure 3 on every solver of the library."""
