"""The main job on any model: pairs, distillation, evaluation."""
