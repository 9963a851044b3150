"""The studio: a page on this machine on which a person paints masks, sees images of them, and keeps the good ones.

Nothing here imports torch before the first page was served; see docs/studio.md.
"""
