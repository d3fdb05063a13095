"""The page: a chat in the browser, hand-written, which loads nothing from elsewhere."""
