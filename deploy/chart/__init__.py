"""What is generated for the Helm chart in ``helm/``: the schema of its values, and two pages of the documentation."""
