"""Floor 3: the way to the next hop. aiosmtplib connects, greets, starts TLS and logs in; the rest is ours."""
