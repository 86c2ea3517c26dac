"""The planner's rules: each a pure function of the fingerprint."""
