"""From what a user asks for to a resolved case: options, each written once, what overrides what, components by name."""
