"""The study of `study`: do defects pasted or painted into good images make a segmentation model better?"""
