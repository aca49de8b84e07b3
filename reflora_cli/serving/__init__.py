"""What a trained model is used for after training: answers about new rows, and conversations."""
