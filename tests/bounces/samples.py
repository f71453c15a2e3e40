"""What receivers say when they refuse, by the facts of their wording: (status, words, class, action).

Names, numbers and addresses are ours; the phrases that rules go by are those that the servers use.
"""

SAMPLES = [
    # -- no such mailbox
    ("5.1.1", "550-5.1.1 The email account that you tried to reach does not exist. Please try double-checking", "hard", "suppress"),
    ("5.1.1", "550 5.1.1 <gone@example.net>: Recipient address rejected: User unknown in virtual mailbox table", "hard", "suppress"),
    ("5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient gone@example.com not found by SMTP address lookup", "hard", "suppress"),
    ("5.5.0", "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", "hard", "count"),
    ("5.0.0", "554 delivery error: dd This user doesn't have a yahoo.example account (gone@yahoo.example) [0]", "hard", "suppress"),
    ("5.0.0", "552 1 Requested mail action aborted, mailbox not found", "hard", "suppress"),
    ("5.1.1", "550 5.1.1 unknown or illegal alias: gone@icloud.example", "hard", "suppress"),
    ("5.0.0", "550 Requested action not taken: mailbox unavailable", "hard", "count"),
    ("", "Sorry, no mailbox here by that name. (#5.1.1)", "hard", "suppress"),
    ("5.0.0", "550 No such user here", "hard", "suppress"),
    ("5.0.0", "550 Unrouteable address", "hard", "suppress"),
    ("5.1.1", "smtp; 550 5.1.1 sid: 41 i=gone@mailru.example user not found", "hard", "suppress"),
    ("5.4.1", "550 5.4.1 Recipient address rejected: Access denied. [AB1EUR05FT012.eop]", "hard", "suppress"),
    ("5.0.0", "550 Invalid Recipient - https://community.mimecast.example/docs/DOC-1369#550", "hard", "suppress"),
    ("5.1.0", "550 5.1.0 Address rejected.", "hard", "suppress"),
    # -- inactive
    ("5.2.1", "550 5.2.1 The email account that you tried to reach is inactive. For more information, go to", "inactive", "suppress"),
    ("5.2.1", "550-5.2.1 The email account that you tried to reach is disabled.", "inactive", "suppress"),
    ("5.0.0", "554 30 Sorry, your message to gone@yahoo.example cannot be delivered. This mailbox is disabled (554.30).", "inactive", "suppress"),
    ("5.0.0", "550 account has been suspended", "inactive", "suppress"),
    # -- full
    ("4.2.2", "452-4.2.2 The recipient's inbox is out of storage space. Please direct the recipient to", "mailbox-full", "count"),
    ("5.2.2", "552-5.2.2 The email account that you tried to reach is over quota.", "mailbox-full", "count"),
    ("5.2.2", "554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException; Failed to process message", "mailbox-full", "count"),
    ("5.0.0", "552 Requested mail action aborted: exceeded storage allocation, Quota exceeded", "mailbox-full", "count"),
    ("4.2.2", "452 4.2.2 <full@example.org> Quota exceeded (mailbox for user is full)", "mailbox-full", "count"),
    # -- block lists and reputation
    ("5.7.1", "550 5.7.1 Unfortunately, messages from [192.0.2.7] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150).", "block", "none"),
    ("5.7.606", "550 5.7.606 Access denied, banned sending IP [192.0.2.7]. To request removal from this list please visit", "block", "none"),
    ("5.7.1", "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.example", "block", "none"),
    ("5.0.0", "554 gmx.example (mxgmx117) Nemesis ESMTP Service not available No SMTP service Bad DNS PTR resource record.", "block", "none"),
    ("5.0.0", "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.7, because the ip is in Spamhaus's list", "block", "none"),
    ("5.7.25", "550-5.7.25 [192.0.2.7] The IP address sending this message does not have a PTR record setup", "block", "none"),
    ("5.0.0", "554 Your access to this mail system has been rejected due to the sending MTA's poor reputation.", "block", "none"),
    # -- authentication
    ("5.7.26", "550-5.7.26 This mail has been blocked because the sender is unauthenticated. Requires all senders to authenticate with either SPF or DKIM.", "auth", "none"),
    ("5.7.26", "550-5.7.26 Unauthenticated email from example.org is not accepted due to domain's DMARC policy.", "auth", "none"),
    ("5.7.515", "550 5.7.515 Access denied, sending domain example.org does not meet the required authentication level.", "auth", "none"),
    ("5.7.9", "554 5.7.9 Message not accepted for policy reasons. DMARC policy of the sender's domain was violated", "auth", "none"),
    ("5.7.23", "550 5.7.23 The message was rejected because of Sender Policy Framework violation", "auth", "none"),
    # -- rate
    ("4.7.28", "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your IP address", "rate", "none"),
    ("4.7.0", "421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred due to unexpected volume or user complaints", "block", "none"),
    ("4.7.1", "451 4.7.1 Greylisting in action, please come back later", "rate", "none"),
    ("4.2.1", "450-4.2.1 The user you are trying to contact is receiving mail too quickly. Please resend your message at a later time.", "rate", "none"),
    ("5.4.5", "550 5.4.5 Daily user sending limit exceeded.", "rate", "none"),
    # -- spam and content
    ("5.7.1", "550-5.7.1 Our system has detected that this message is likely unsolicited mail.", "spam", "none"),
    ("5.0.0", "554 5.7.1 Message rejected as spam by Content Filtering.", "spam", "none"),
    ("5.7.0", "552-5.7.0 This message was blocked because its content presents a potential security issue: executable attachment", "content", "none"),
    ("5.0.0", "550 Message contains a virus: Eicar-Signature", "content", "none"),
    ("5.3.4", "552-5.3.4 Your message exceeded the size limits of the receiver", "too-large", "none"),
    ("5.3.4", "552 5.3.4 Message size exceeds fixed limit", "too-large", "none"),
    ("5.2.3", "550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient", "too-large", "none"),
    # -- domain
    ("5.4.4", "Host or domain name not found. Name service error for name=nosuch.example type=AAAA: Host not found", "bad-domain", "suppress"),
    ("5.1.2", "unable to look up host nosuch.example: domain does not exist", "bad-domain", "suppress"),
    ("5.1.10", "Domain example.net does not accept mail (nullMX)", "bad-domain", "suppress"),
    # -- relay, policy
    ("5.7.1", "550 5.7.1 Unable to relay for gone@example.net", "relay", "none"),
    ("5.7.64", "550 5.7.64 TenantAttribution; Relay Access Denied", "relay", "none"),
    ("", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", "relay", "none"),
    ("5.7.133", "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required", "policy", "none"),
    ("5.7.1", "550 5.7.1 Message rejected due to policy reasons", "policy", "none"),
    # -- gave up, network
    ("4.4.7", "retry timeout exceeded", "soft", "count"),
    ("4.4.1", "connect to mx.example.net[192.0.2.9]:25: Connection timed out", "network", "count"),
    ("4.4.2", "lost connection with mx.example.net[192.0.2.9] while receiving the initial server greeting", "network", "count"),
    ("4.3.0", "451 4.3.0 Error: queue file write error", "network", "count"),
    ("5.4.6", "Hop count exceeded - possible mail loop", "soft", "count"),
    # -- challenge, unknown
    ("5.0.0", "550 This recipient uses challenge-response: confirm you are human", "challenge", "none"),
    ("5.0.0", "550 qwertz", "unknown", "none"),
]  # fmt: skip
