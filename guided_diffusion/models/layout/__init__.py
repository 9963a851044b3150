"""Images from layouts: objects with class, box and style scale and shift normalized features where their masks are."""
