"""What the audit and lint find of ports: the rules, what is allowed or known, and SARIF.

One comment and one baseline silence a rule in both: what was seen as it was bound, and in the text.
"""
