"""ChameleonAPI: customize the model behind an ML API to the decisions of one application (OSDI 2024).

Import what you need from `chameleonapi.api`.
"""
