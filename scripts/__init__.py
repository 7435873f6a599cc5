"""Programs of the project's own workshop; the product imports none of them."""
