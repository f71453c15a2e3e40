"""Who gets no more mail: the list in a file, or in a database that several machines share."""
