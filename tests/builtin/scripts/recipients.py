import json
import sys

known = {"b@example.org", "postmaster@example.org"}
told = json.loads(sys.stdin.readline())
if told["recipient"] in known:
    answer = {}
else:
    answer = {"verdict": "reject", "reply": {"status": "5.1.1", "text": "There is no such user"}}
json.dump(answer, sys.stdout)
