"""Images: data sets, folders and archives."""
