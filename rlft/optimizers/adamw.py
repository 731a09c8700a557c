"""AdamW (arXiv 1412.6980, 1711.05101): two moments a parameter, in float32."""
import optax


def scale(
    *, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8,
    eps_root: float = 0.0,
) -> optax.GradientTransformation:
  """m / (sqrt(v + eps_root) + eps), of both moments without their bias."""
  return optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
