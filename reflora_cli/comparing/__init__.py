"""Many runs from one plan: methods compared with equal budgets."""
