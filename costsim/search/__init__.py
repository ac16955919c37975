"""The best policy of a space: what is searched, the front of quality and cost, one optimum under budgets."""
