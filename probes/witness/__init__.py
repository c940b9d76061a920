"""What a loss trains, read off its gradient."""
