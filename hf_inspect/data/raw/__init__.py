"""What lies in a raw folder or archive: walked once, recognised by its layout or its JSON, and accounted for."""
