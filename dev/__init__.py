"""What builds, proves and demonstrates the program; nothing here runs on a user's cloud."""
