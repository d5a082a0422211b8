"""Power means in 80 decimal digits, straight from the definition: no care is needed where digits abound."""

from decimal import Decimal, localcontext


def log_power_mean(log_values, weights, power):
    """log M_p; `weights` are normalised here."""
    with localcontext() as context:
        context.prec = 80
        values, shares = [Decimal(x) for x in log_values], [Decimal(w) for w in weights]
        total = sum(shares)
        if power == 0:
            return float(sum(w * x for w, x in zip(shares, values, strict=True)) / total)
        p = Decimal(power)
        mean = sum(w / total * (p * x).exp() for w, x in zip(shares, values, strict=True))
        return float(mean.ln() / p)
