"""How figures look, whatever they show: one style, dots, heat maps, labels that hide little, pictures side by side."""
