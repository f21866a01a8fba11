"""One function per job: files in, a result folder out. The command line and the page call these."""
