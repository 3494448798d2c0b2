"""E-mail through Django's backend: EMAIL_URL says which server."""

from __future__ import annotations

import smtplib

from django.conf import settings
from django.core.mail import EmailMessage, get_connection

from apps.alerts.models import Channel, Delivery
from apps.alerts.senders.errors import NotDelivered


def send_email(channel: Channel, delivery: Delivery) -> None:
    if not settings.BACKUPMGR_EMAIL_CONFIGURED:
        raise NotDelivered(
            "No mail server is set: BACKUPMGR_EMAIL_URL names it, for example smtp://user:password@host:587."
        )
    to = [address.strip() for address in channel.address.reveal().split(",")]
    message = EmailMessage(
        subject=" ".join(delivery.subject.split()),
        body=delivery.text,
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=to,
        headers={"Message-ID": f"<{delivery.key}@backupmgr>", "X-Idempotency-Key": str(delivery.key)},
        connection=get_connection(timeout=settings.BACKUPMGR_ALERT_TIMEOUT_SECONDS, fail_silently=False),
    )
    try:
        message.send()
    except smtplib.SMTPAuthenticationError as error:
        raise NotDelivered("The mail server refuses user name or password.") from error
    except smtplib.SMTPRecipientsRefused as error:
        raise NotDelivered("The mail server refuses the recipients.") from error
    except smtplib.SMTPException as error:
        raise NotDelivered(f"The mail server refuses the message ({type(error).__name__}).") from error
    except OSError as error:
        raise NotDelivered(f"The mail server cannot be reached ({type(error).__name__}).") from error
