"""Images, masks, tables and archives: reading and writing files safely."""
