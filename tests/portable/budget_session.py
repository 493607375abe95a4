"""What becomes of a device's budget, for each file that counts its private updates: spent, left (null), or an error.

micropython budget_session.py FILE ...: prints a JSON list.
"""

import json
import sys

from tinyreptile.privacy import Privacy

found = []
for path in sys.argv[1:]:
    try:
        found.append(Privacy(0.1, 2.0, 3, path).end())
    except ValueError as error:
        found.append(str(error))
print(json.dumps(found))
