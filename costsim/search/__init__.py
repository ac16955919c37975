"""The best policy of a space: the front of quality and cost, one optimum under budgets."""
