"""How to learn the next task without losing the last: one method a file, and Chain to combine them."""

from frostline.strategies.acil import ACIL
from frostline.strategies.agem import AGEM
from frostline.strategies.base import Grads, Strategy
from frostline.strategies.bic import BiC
from frostline.strategies.chain import Chain
from frostline.strategies.cls_er import CLSER
from frostline.strategies.coda_prompt import CODAPrompt
from frostline.strategies.continual_backprop import ContinualBackprop
from frostline.strategies.cwr_star import CWRStar
from frostline.strategies.der_pp import DERpp
from frostline.strategies.dualprompt import DualPrompt
from frostline.strategies.ema import EMA
from frostline.strategies.er_ace import ERACE
from frostline.strategies.er_aml import ERAML
from frostline.strategies.ewc import EWC
from frostline.strategies.fdr import FDR
from frostline.strategies.fecam import FeCAM
from frostline.strategies.finetune import Finetune
from frostline.strategies.from_scratch import FromScratch, Independent
from frostline.strategies.frozen import Frozen
from frostline.strategies.gdumb import GDumb
from frostline.strategies.gem import GEM
from frostline.strategies.gpm import GPM
from frostline.strategies.hat import HAT
from frostline.strategies.icarl import ICaRL
from frostline.strategies.il2m import IL2M
from frostline.strategies.joint import Cumulative, Joint
from frostline.strategies.l2_sp import L2SP
from frostline.strategies.l2p import L2P
from frostline.strategies.layer_rates import LayerRates
from frostline.strategies.lucir import LUCIR
from frostline.strategies.lwf import LwF
from frostline.strategies.mas import MAS
from frostline.strategies.ncm import NCM
from frostline.strategies.o_lora import OLoRA
from frostline.strategies.ogd import OGD
from frostline.strategies.osf import OSF
from frostline.strategies.owm import OWM
from frostline.strategies.packnet import PackNet
from frostline.strategies.pnn import PNN
from frostline.strategies.ranpac import RanPAC
from frostline.strategies.redo import ReDo
from frostline.strategies.replay import Replay
from frostline.strategies.rwalk import RWalk
from frostline.strategies.scr import SCR
from frostline.strategies.shrink_and_perturb import ShrinkAndPerturb
from frostline.strategies.si import SI
from frostline.strategies.slca import SLCA
from frostline.strategies.slda import SLDA
from frostline.strategies.task_arithmetic import TaskArithmetic
from frostline.strategies.wa import WA
from frostline.strategies.weighted_replay import WeightedReplay
from frostline.strategies.wise_ft import WiSEFT

__all__ = [
    "ACIL",
    "AGEM",
    "CLSER",
    "EMA",
    "ERACE",
    "ERAML",
    "EWC",
    "FDR",
    "GEM",
    "GPM",
    "HAT",
    "IL2M",
    "L2P",
    "L2SP",
    "LUCIR",
    "MAS",
    "NCM",
    "OGD",
    "OSF",
    "OWM",
    "PNN",
    "SCR",
    "SI",
    "SLCA",
    "SLDA",
    "WA",
    "BiC",
    "CODAPrompt",
    "CWRStar",
    "Chain",
    "ContinualBackprop",
    "Cumulative",
    "DERpp",
    "DualPrompt",
    "FeCAM",
    "Finetune",
    "FromScratch",
    "Frozen",
    "GDumb",
    "Grads",
    "ICaRL",
    "Independent",
    "Joint",
    "LayerRates",
    "LwF",
    "OLoRA",
    "PackNet",
    "RWalk",
    "RanPAC",
    "ReDo",
    "Replay",
    "ShrinkAndPerturb",
    "Strategy",
    "TaskArithmetic",
    "WeightedReplay",
    "WiSEFT",
]  # fmt: skip
