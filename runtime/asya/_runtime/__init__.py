"""The runtime behind `import asya`: everything here is private and may change with any version."""
