"""The one world of models, graphs and stand-ins that tests are made of."""
