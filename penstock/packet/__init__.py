"""Packet formats: the field table, parsing to a flow key, checksums, header edits, segmentation.

Kernels here work on plain addresses and lengths and know nothing of descriptors, ports or tables. Unless a docstring
says otherwise, values such as addresses, ports and tags are *raw*: the integer that a load of the bytes in the packet
gives, so that key, packet and action all hold the same bits and nothing is swapped on the way.
"""
