"""Reading an application's decision process out of its source. Start at `chameleonapi.api.parse_application`."""
