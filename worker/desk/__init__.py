"""What people do with what the workers left behind: find out, fix, replay. The command line and the page call these."""
