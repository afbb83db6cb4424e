FIELD_OF_VIEW_MM = (420.0, 320.0, 250.0)
CENTRE_MM = (0.0, 0.0, 15.0)
def paint_pelvis(canvas, rng):
    raise NotImplementedError
