"""Routes and views, one package a dialect. Dialects do not know each other."""
