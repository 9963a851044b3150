"""The study of `study`: do defects placed into good images make a segmentation model better?"""
