"""Every metric of the paper (section 4), each a small pure function. NumPy and SciPy only.

Positions come in metres, errors go out in millimetres, as the field's tables have them; angles in degrees. Misses do
not enter errors: report recall beside every one of them.
"""
