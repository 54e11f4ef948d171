"""Several images from one update, exactly: tokens are placed, searched for and dealt to images by the first attention."""
