"""Training stages, with the loss and the validation of each, and pretraining of the connector."""
