"""What follows the output topics on its own account: DNS, webhooks. Nothing does yet."""

__all__: list[str] = []
