"""Chapter 4: right and wrong answers, which its checkers must tell apart."""

RIGHT = {"ex-04-step": lambda d, R, theta: ((d >= theta) & R).any(1)}

WRONG = {
    "ex-04-step": [
        lambda d, R, theta: ((d > theta) & R).any(1),  # a share that equals θ is relevant
        lambda d, R, theta: (d >= theta).any(1),  # of neurons that are not relevant themselves
        lambda d, R, theta: ((d >= theta) & R).all(1),
    ]
}
