"""Devices: profiles, energy tables, and a roofline for each kernel. Here time enters."""
