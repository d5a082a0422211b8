"""Slow twins of inference in Markov random fields: every configuration of a small field, and messages by plain sums."""

import itertools
import math

import numpy as np


def score(h, edges, psi, theta):
    """The exponent in (6)-(7) of one configuration."""
    pairs = sum(psi[e][h[i]][h[j]] for e, (i, j) in enumerate(edges))
    return pairs + sum(theta[node][value] for node, value in enumerate(h))


def configurations(edges, psi, theta):
    """[(h, score)] for all h."""
    nodes, states = theta.shape
    return [(h, score(h, edges, psi, theta)) for h in itertools.product(range(states), repeat=nodes)]


def log_partition(edges, psi, theta):
    """log Z = log sum_h exp(score(h))."""
    scores = [s for _, s in configurations(edges, psi, theta)]
    largest = max(scores)
    return largest + math.log(sum(math.exp(s - largest) for s in scores))


def marginals(edges, psi, theta):
    """(p(h_i), p(h_i, h_j)): arrays (V, n) and (E, n, n)."""
    log_z = log_partition(edges, psi, theta)
    single, pair = np.zeros(theta.shape), np.zeros(psi.shape)
    for h, s in configurations(edges, psi, theta):
        p = math.exp(s - log_z)
        for node, value in enumerate(h):
            single[node, value] += p
        for e, (i, j) in enumerate(edges):
            pair[e, h[i], h[j]] += p
    return single, pair


def most_probable(edges, psi, theta):
    """argmax_h p(h), and log max_h p(h) Z."""
    return max(configurations(edges, psi, theta), key=lambda entry: entry[1])


def beliefs(m, edges, theta):
    """b_i(h_i) from m[(j, i)], the message of j to i as a list over h_i: equations (11) and (21)."""
    nodes, states = theta.shape
    b = np.zeros((nodes, states))
    for i in range(nodes):
        for a in range(states):
            b[i, a] = math.exp(theta[i][a])
            for source, target in m:
                if target == i:
                    b[i, a] *= m[source, target][a]
        b[i] /= sum(b[i])
    return b


def new_messages(m, edges, psi, theta, rule):
    """All messages anew: rule(b_j, psi_ij as [h_i][h_j], m_{i->j}, h_i) -> m_{j->i}(h_i); then sums of 1."""
    b, states, new = beliefs(m, edges, theta), theta.shape[1], {}
    for e, (i, j) in enumerate(edges):
        for source, target, table in ((j, i, psi[e]), (i, j, psi[e].T)):
            message = [rule(b[source], table, m[target, source], a) for a in range(states)]
            new[source, target] = [value / sum(message) for value in message]
    return new


def mean_field_rule(b, table, incoming, a):
    """Equation (13)."""
    return math.exp(sum(b[c] * table[a][c] for c in range(len(b))))


def sum_product_rule(b, table, incoming, a):
    """Equation (22)."""
    return sum(math.exp(table[a][c]) * b[c] / incoming[c] for c in range(len(b)))


def max_product_rule(b, table, incoming, a):
    """Equation (22) with a maximum in place of the sum."""
    return max(math.exp(table[a][c]) * b[c] / incoming[c] for c in range(len(b)))


def family_rule(alpha, temperature=1.0):
    """Equation (27) and the second family."""

    def rule(b, table, incoming, a):
        terms = [b[c] * (math.exp(table[a][c]) / incoming[c]) ** alpha for c in range(len(b))]
        return sum(term ** (1 / temperature) for term in terms) ** (temperature / alpha)

    return rule


def reweighted_messages(m, edges, psi, theta, rho):
    """One round of tree-reweighted sum-product as Wainwright, Jaakkola & Willsky (2005) write it; m as above."""
    states, new = theta.shape[1], {}
    appearance = {frozenset(edge): rho[e] for e, edge in enumerate(edges)}
    for e, (i, j) in enumerate(edges):
        for s, t, table in ((i, j, psi[e]), (j, i, psi[e].T)):  # to s from t; table[h_s][h_t]
            message = []
            for a in range(states):
                total = 0.0
                for c in range(states):
                    term = math.exp(table[a][c] / rho[e] + theta[t][c])
                    for source, target in m:
                        if target == t and source != s:
                            term *= m[source, target][c] ** appearance[frozenset((source, target))]
                    total += term / m[s, t][c] ** (1 - rho[e])
                message.append(total)
            new[t, s] = [value / sum(message) for value in message]
    return new
