"""What concerns files, threads and the operating system, whatever is computed."""
