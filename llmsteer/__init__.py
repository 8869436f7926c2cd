"""LLMSteer: better answers from reused contexts, by steering attention to tokens that matter whatever the query.

Gu et al., "LLMSteer: Improving Long-Context LLM Inference by Steering Attention on Reused Contexts", arXiv 2411.13009. What to
import to bring a method or a workload of your own: `llmsteer.api`. To steer a model of your own: `llmsteer.steering.steer`.
"""
