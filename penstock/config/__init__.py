"""The TOML configuration file as a source of desired state; `load` is the way in, `schema` what the file may say."""
