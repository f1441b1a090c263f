"""What a network is: the calls of one forward pass as steps, each a weighted layer or a move."""
